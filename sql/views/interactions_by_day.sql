-- What each landing day brought.
-- Grain: one landing day and domain.
-- Columns:
--   arrival_ds    the landing day
--   domain        the domain
--   events        accepted events
--   users         users among them
--   items         items among them
--   late_events   events of an earlier day than the one that brought them
--   oldest_day    day of the oldest event among them, UTC
with

events as (
    select * from interactions
),

final as (
    select
        arrival_ds,
        domain,
        count(*) as events,
        count(distinct user_id) as users,
        count(distinct item_id) as items,
        count(*) filter (where event_day < arrival_ds) as late_events,
        min(event_day) as oldest_day
    from events
    group by arrival_ds, domain
)

select * from final
