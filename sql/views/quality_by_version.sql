-- Ranking quality of every version on the cases of every night, by full ranking inside the domain.
-- Grain: one run, version, role, domain, split and view.
-- Columns:
--   ds                       the night
--   run_id                   its run
--   model_version            registry version; 'popularity' for the baseline
--   role                     challenger, champion or popularity
--   domain                   the domain; 'macro' the plain mean over domains, 'min' the worst
--   split                    test
--   view                     cross, single, blend, served; '' for popularity
--   ndcg_10                  ndcg@10
--   ndcg_10_low              lower end of its 95 % bootstrap interval over users
--   ndcg_10_high             upper end of its 95 % bootstrap interval over users
--   hr_10                    share of cases whose target is among the first 10
--   mrr_10                   mean reciprocal rank, 0 beyond 10
--   cases                    cases behind it
with

metrics as (
    select * from domain_metrics
    where metric in ('ndcg@10', 'hr@10', 'mrr@10')
),

final as (
    select
        ds,
        run_id,
        model_version,
        role,
        domain,
        split,
        view,
        max(case when metric = 'ndcg@10' then value end) as ndcg_10,
        max(case when metric = 'ndcg@10' then low end) as ndcg_10_low,
        max(case when metric = 'ndcg@10' then high end) as ndcg_10_high,
        max(case when metric = 'hr@10' then value end) as hr_10,
        max(case when metric = 'mrr@10' then value end) as mrr_10,
        max(cases) as cases
    from metrics
    group by ds, run_id, model_version, role, domain, split, view
)

select * from final
