-- What every user did, with each event's place counted from the newest.
-- Grain: one event. Filter on user_id: the place is computed for that user alone.
-- Columns:
--   user_id             the user
--   recency             1 is the user's newest event over all domains
--   recency_in_domain   1 is the user's newest event in this domain
--   ts                  time of the event, UTC
--   domain              domain of the item
--   item_id             the item
--   arrival_ds          the landing day that brought it
with

events as (
    select * from interactions
),

final as (
    select
        user_id,
        row_number() over (partition by user_id order by ts desc, event_id desc) as recency,
        row_number() over (
            partition by user_id, domain order by ts desc, event_id desc
        ) as recency_in_domain,
        ts,
        domain,
        item_id,
        arrival_ds
    from events
)

select * from final
