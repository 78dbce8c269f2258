-- Do the other domains help or hurt each domain, night by night?
-- How to read: ntg_ndcg is the cross view minus the single view (ndcg@10) with its 95 % interval,
-- for the version trained that night. 'hurts' or 'helps' only where the interval leaves zero out.
-- ntg_served says the same of what users get where that version serves: one that was refused
-- serves nobody, or the users of an experiment. ntg_loss compares the losses in training, not
-- lists: its sign may be another. lambda_weight is the weight that the paper makes of it;
-- training uses it only where correction is not uniform, the default. The rows macro (the mean
-- over domains) and min (the worst domain) have no interval and no verdict. decision: rolled_back
-- is a night that was withdrawn since; without one, the run published nothing.
with

gaps as (
    select * from ntg_by_night
),

final as (
    select
        ds,
        domain,
        round(ntg_ndcg, 4) as ntg_ndcg,
        round(ntg_ndcg_low, 4) as low,
        round(ntg_ndcg_high, 4) as high,
        case
            when ntg_ndcg_high < 0 then 'hurts'
            when ntg_ndcg_low > 0 then 'helps'
            when ntg_ndcg_low is not null then 'not clear'
        end as transfer,
        round(ntg_served, 4) as ntg_served,
        round(ntg_loss, 4) as ntg_loss,
        round(lambda_weight, 4) as lambda_weight,
        model_version,
        published,
        decision
    from gaps
)

select * from final order by ds desc, published desc, model_version asc, domain asc
