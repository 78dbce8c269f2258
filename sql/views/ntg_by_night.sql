-- The negative transfer gap (NTG) of the version that each night trained: did other domains help?
-- Above 0: what the model learned from the other domains helps this one. Below 0: it hurts.
-- Grain: one run and domain ('macro' is the plain mean over domains, 'min' the worst).
-- Nights that did not train have no rows.
-- Columns:
--   ds                 the night
--   run_id             its run
--   model_version      the version trained that night
--   domain             the domain
--   ntg_loss           single-domain loss minus cross-domain loss, in training
--   ntg_ndcg           ndcg@10 on test: cross view minus single view
--   ntg_ndcg_low       lower end of its 95 % interval
--   ntg_ndcg_high      upper end of its 95 % interval
--   ntg_served         ndcg@10 on test: served view minus single view
--   ntg_served_low     lower end of its 95 % interval
--   ntg_served_high    upper end of its 95 % interval
--   served_view        cross, single or blend: what validation chose
--   cross_valid        ndcg@10 on validation: cross view minus single view
--   cross_valid_low    lower end of its 95 % interval
--   cross_valid_high   upper end of its 95 % interval
--   blend_valid        ndcg@10 on validation: blend minus single view
--   blend_valid_low    lower end of its 95 % interval
--   blend_valid_high   upper end of its 95 % interval
--   cases_valid        validation cases behind the choice
--   lambda_weight      the paper's lambda; weighs the loss only if correction is not uniform
--   cases              test cases behind ntg_ndcg
--   published          whether this run published the night
--   decision           the decision of the night that this run published; rolled_back: withdrawn
with

trained as (
    select * from domain_metrics
    where
        role = 'challenger'
        and metric not in ('epoch', 'epochs_at_most')
),

published_nights as (
    select * from nights
),

measured as (
    select
        ds,
        run_id,
        model_version,
        domain,
        max(case when split = 'train' and metric = 'ntg_loss' then value end) as ntg_loss,
        max(case when split = 'test' and metric = 'ntg_ndcg' then value end) as ntg_ndcg,
        max(case when split = 'test' and metric = 'ntg_ndcg' then low end) as ntg_ndcg_low,
        max(case when split = 'test' and metric = 'ntg_ndcg' then high end) as ntg_ndcg_high,
        max(case when split = 'test' and metric = 'ntg_served' then value end) as ntg_served,
        max(case when split = 'test' and metric = 'ntg_served' then low end) as ntg_served_low,
        max(case when split = 'test' and metric = 'ntg_served' then high end) as ntg_served_high,
        max(case when split = 'valid' and metric = 'ntg_served' then view end) as served_view,
        max(case when metric = 'ntg_view' and view = 'cross' then value end) as cross_valid,
        max(case when metric = 'ntg_view' and view = 'cross' then low end) as cross_valid_low,
        max(case when metric = 'ntg_view' and view = 'cross' then high end) as cross_valid_high,
        max(case when metric = 'ntg_view' and view = 'blend' then value end) as blend_valid,
        max(case when metric = 'ntg_view' and view = 'blend' then low end) as blend_valid_low,
        max(case when metric = 'ntg_view' and view = 'blend' then high end) as blend_valid_high,
        max(case when split = 'valid' and metric = 'ntg_served' then cases end) as cases_valid,
        max(case when split = 'train' and metric = 'lambda' then value end) as lambda_weight,
        max(case when split = 'test' and metric = 'ntg_ndcg' then cases end) as cases
    from trained
    group by ds, run_id, model_version, domain
),

final as (
    select
        measured.ds,
        measured.run_id,
        measured.model_version,
        measured.domain,
        measured.ntg_loss,
        measured.ntg_ndcg,
        measured.ntg_ndcg_low,
        measured.ntg_ndcg_high,
        measured.ntg_served,
        measured.ntg_served_low,
        measured.ntg_served_high,
        measured.served_view,
        measured.cross_valid,
        measured.cross_valid_low,
        measured.cross_valid_high,
        measured.blend_valid,
        measured.blend_valid_low,
        measured.blend_valid_high,
        measured.cases_valid,
        measured.lambda_weight,
        measured.cases,
        published_nights.run_id is not null as published,
        published_nights.decision
    from measured
    left join published_nights
        on
            measured.ds = published_nights.ds
            and measured.run_id = published_nights.run_id
)

select * from final
