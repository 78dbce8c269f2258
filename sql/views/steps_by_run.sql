-- How each step of each run ended, how long it took, how much memory it held, and what is usual.
-- Grain: one run and step, the last attempt. Usual is the median of the published nights of the 30
-- days before; null before the second night.
-- Columns:
--   ds              the night
--   run_id          the run
--   step            the step
--   attempt         how many times the run has begun it
--   outcome         done, nothing to do, failed, not ended
--   message         why it failed, or why there was nothing to do
--   started_at      when the last attempt began
--   seconds         how long it took
--   peak_memory     bytes that its processes held at once, an upper bound
--   usual_seconds   the usual seconds
--   usual_memory    the usual peak_memory
with

every_step as (
    select * from steps
),

published as (
    select
        steps.ds,
        steps.step,
        steps.seconds,
        steps.peak_memory
    from steps
    inner join nights
        on
            steps.ds = nights.ds
            and steps.run_id = nights.run_id
    where steps.outcome = 'done'
),

usual as (
    select
        every_step.ds,
        every_step.run_id,
        every_step.step,
        percentile_cont(0.5) within group (order by published.seconds) as usual_seconds,
        percentile_cont(0.5) within group (order by published.peak_memory) as usual_memory
    from every_step
    inner join published
        on
            every_step.step = published.step
            and every_step.ds > published.ds
            and every_step.ds <= published.ds + 30
    group by every_step.ds, every_step.run_id, every_step.step
),

final as (
    select
        every_step.ds,
        every_step.run_id,
        every_step.step,
        every_step.attempt,
        every_step.outcome,
        every_step.message,
        every_step.started_at,
        every_step.seconds,
        every_step.peak_memory,
        usual.usual_seconds,
        usual.usual_memory
    from every_step
    left join usual
        on
            every_step.ds = usual.ds
            and every_step.run_id = usual.run_id
            and every_step.step = usual.step
)

select * from final
