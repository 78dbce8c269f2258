-- What did each landing day bring, and how much of it came late?
-- How to read: late_events happened before the day that brought them; they count from this night
-- on.
with

days as (
    select * from interactions_by_day
),

final as (
    select
        arrival_ds,
        domain,
        events,
        users,
        items,
        late_events,
        round(cast(late_events as double) / events, 4) as late_share,
        oldest_day
    from days
)

select * from final order by arrival_ds desc, domain asc
