-- What did the audits of the night $ds find, and which rows count? (DuckDB only; jobs/report.py
-- gives the day.) Grain: one rule of one table and run. newest: is the run the newest one that
-- audited that table? A run is as new as its last step; else the one that published the night.
with

tonight as (
    select * from audits
    where ds = $ds
),

steps_tonight as (
    select * from steps
    where ds = $ds
),

last_steps as (
    select
        run_id,
        max(started_at) as started_at
    from steps_tonight
    group by run_id
),

published as (
    select run_id from nights
    where ds = $ds
),

final as (
    select
        tonight.run_id,
        tonight.table_name,
        tonight.rule,
        tonight.success,
        tonight.checked,
        tonight.failed,
        tonight.observed,
        rank() over (
            partition by tonight.table_name
            order by
                last_steps.started_at desc nulls last,
                published.run_id desc nulls last,
                tonight.run_id desc
        ) = 1 as newest
    from tonight
    left join last_steps on tonight.run_id = last_steps.run_id
    left join published on tonight.run_id = published.run_id
)

select * from final order by success asc, table_name asc, rule asc, run_id asc
