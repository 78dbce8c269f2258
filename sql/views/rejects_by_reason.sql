-- The input lines that were refused, and how large a part of their source they are.
-- Grain: one landing day, source and reason.
-- Columns:
--   arrival_ds       the landing day
--   source           the configured source
--   reason           why, e.g. null_user, bad_time, future_time, broken_line, unknown_domain
--   lines            refused lines
--   files            files with such lines
--   first_file       the first of these files by name
--   share_of_lines   lines / all lines of that source and day (accepted events and refused lines)
with

rejected as (
    select * from rejected_interactions
),

accepted_events as (
    select * from interactions
),

refused as (
    select
        arrival_ds,
        source,
        reason,
        count(*) as lines,
        count(distinct file) as files,
        min(file) as first_file
    from rejected
    group by arrival_ds, source, reason
),

accepted as (
    select
        arrival_ds,
        source,
        count(*) as events
    from accepted_events
    group by arrival_ds, source
),

final as (
    select
        refused.arrival_ds,
        refused.source,
        refused.reason,
        refused.lines,
        refused.files,
        refused.first_file,
        cast(refused.lines as double)
        / (
            sum(refused.lines) over (partition by refused.arrival_ds, refused.source)
            + coalesce(accepted.events, 0)
        ) as share_of_lines
    from refused
    left join accepted
        on
            refused.arrival_ds = accepted.arrival_ds
            and refused.source = accepted.source
)

select * from final
