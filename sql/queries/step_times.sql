-- Where does the time of a night go, and how much memory does each step need?
-- How to read: the steps of the newest published night, slowest first. usual_seconds is the median
-- of the steps that ended in the published nights of the 30 days before it. memory_gib is an upper
-- bound of what the step's processes held at once.
with

newest_night as (
    select * from latest_night
),

nights_before as (
    select
        nights.ds,
        nights.run_id
    from nights
    inner join newest_night
        on
            nights.ds < newest_night.ds
            and nights.ds >= newest_night.ds - 30
),

usual as (
    select
        steps.step,
        percentile_cont(0.5) within group (order by steps.seconds) as usual_seconds
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
        steps.ds,
        steps.step,
        steps.outcome,
        steps.attempt,
        steps.seconds,
        usual.usual_seconds,
        cast(steps.peak_memory as double) / 1073741824 as memory_gib
    from steps
    inner join newest_night
        on
            steps.ds = newest_night.ds
            and steps.run_id = newest_night.run_id
    left join usual on steps.step = usual.step
)

select * from final order by seconds desc nulls last, step asc
