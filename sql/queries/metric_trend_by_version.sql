-- How good was each model version, night by night?
-- How to read: one line a night and version, its mean over the domains on the test cases of the
-- served view. A version appears as challenger on the night it was trained, later as champion;
-- popularity is the line to beat. worst_domain is the lowest ndcg@10 among the domains.
with

quality as (
    select * from quality_by_version
    where split = 'test' and view in ('served', '')
),

means as (
    select * from quality
    where domain = 'macro'
),

worst as (
    select * from quality
    where domain = 'min'
),

final as (
    select
        means.ds,
        means.model_version,
        means.role,
        round(means.ndcg_10, 4) as ndcg_10,
        round(means.ndcg_10_low, 4) as low,
        round(means.ndcg_10_high, 4) as high,
        round(means.hr_10, 4) as hr_10,
        round(means.mrr_10, 4) as mrr_10,
        round(worst.ndcg_10, 4) as worst_domain,
        means.cases
    from means
    left join worst
        on
            means.run_id = worst.run_id
            and means.ds = worst.ds
            and means.model_version = worst.model_version
            and means.role = worst.role
)

select * from final order by ds desc, role asc, model_version asc
