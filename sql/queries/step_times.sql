-- Where does the time of a night go, and how much memory does each step need?
-- How to read: the steps of the newest published night, slowest first. usual_seconds is the median
-- of the steps that ended in the published nights of the 30 days before it. memory_gib is an upper
-- bound of what the step's processes held at once.
with

newest_night as (
    select * from latest_night
),

final as (
    select
        steps_by_run.ds,
        steps_by_run.step,
        steps_by_run.outcome,
        steps_by_run.attempt,
        round(steps_by_run.seconds, 1) as seconds,
        round(steps_by_run.usual_seconds, 1) as usual_seconds,
        round(cast(steps_by_run.peak_memory as double) / 1073741824, 2) as memory_gib
    from steps_by_run
    inner join newest_night
        on
            steps_by_run.ds = newest_night.ds
            and steps_by_run.run_id = newest_night.run_id
)

select * from final order by seconds desc nulls last, step asc
