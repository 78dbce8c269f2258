-- How did each step of one run end, how long did it take, how much memory did it hold, and what is
-- usual? Usual is the median of the published nights of the 30 days before $ds (DuckDB only;
-- jobs/report.py gives the day and the run). Grain: one step. Columns: those of steps, and
-- usual_seconds, usual_memory (null before the second night).
with

own as (
    select * from steps
    where ds = $ds and run_id = $run_id
),

nights_before as (
    select
        ds,
        run_id
    from nights
    where ds < $ds and ds >= $ds - 30
),

usual as (
    select
        steps.step,
        median(steps.seconds) as usual_seconds,
        median(steps.peak_memory) as usual_memory
    from steps
    inner join nights_before
        on
            steps.ds = nights_before.ds
            and steps.run_id = nights_before.run_id
    where steps.outcome = 'done'
    group by steps.step
),

final as (
    select
        own.step,
        own.attempt,
        own.outcome,
        own.message,
        own.started_at,
        own.seconds,
        own.peak_memory,
        usual.usual_seconds,
        usual.usual_memory
    from own
    left join usual on own.step = usual.step
)

select * from final order by started_at asc, step asc
