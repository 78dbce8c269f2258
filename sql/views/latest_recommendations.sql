-- The recommendations of the newest night that was not rolled back: what users are shown now.
-- Grain: one user, domain, arm and rank.
-- Columns:
--   user_id         user; '__anyone__' holds the lists for users never seen
--   domain          domain of the item
--   rank            1 is best
--   item_id         the recommended item
--   score           model logit (source = model), share of recent events (source = popularity)
--   source          model, or popularity where the model had too little
--   model_version   registry version of the model that scored
--   arm             A/B arm: champion; candidate for its users while an experiment runs
--   ds              the night
with

all_recommendations as (
    select * from recommendations
),

withdrawn as (
    select distinct ds from experiments
    where outcome = 'rolled_back'
),

newest as (
    select max(nights.ds) as ds
    from nights
    left join withdrawn on nights.ds = withdrawn.ds
    where nights.decision <> 'rolled_back' and withdrawn.ds is null
),

final as (
    select
        all_recommendations.user_id,
        all_recommendations.domain,
        all_recommendations.rank,
        all_recommendations.item_id,
        all_recommendations.score,
        all_recommendations.source,
        all_recommendations.model_version,
        all_recommendations.arm,
        all_recommendations.ds
    from all_recommendations
    inner join newest on all_recommendations.ds = newest.ds
)

select * from final
