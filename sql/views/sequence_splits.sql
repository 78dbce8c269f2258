-- The kept events of every user and split of the newest night, with their places from its end.
-- Grain: one event of one split (train, valid, test, serve). valid and test hold only users with
-- an event in their window; events from start_time on are the ones to predict there.
-- Columns:
--   user_id                  the user
--   split                    train, valid, test or serve
--   recency                  1 is the last event before the cut
--   recency_in_domain        the same among the events of its domain
--   n_events                 kept events of the user before the cut
--   n_events_in_domain       of these, those of its domain
--   domain_code              domain of the event, from 1 in the order of the configuration
--   item_index               item within its domain, as in items
--   time                     time of the event, microseconds since 1970 UTC
--   start_time               first time to predict in the split, microseconds since 1970 UTC
--   cut_time                 end of the split, microseconds since 1970 UTC
--   max_length               T, the events that a sequence shows
with

night as (
    select * from sequences_night
),

events as (
    select * from sequence_events
),

windows as (
    select
        'train' as split,
        0 as start_time,
        valid_start as cut_time,
        max_length
    from night
    union all
    select
        'valid' as split,
        valid_start as start_time,
        test_start as cut_time,
        max_length
    from night
    union all
    select
        'test' as split,
        test_start as start_time,
        cutoff as cut_time,
        max_length
    from night
    union all
    select
        'serve' as split,
        0 as start_time,
        cutoff as cut_time,
        max_length
    from night
),

placed as (
    select
        events.user_id,
        windows.split,
        row_number() over (
            partition by events.user_id, windows.split order by events.step desc
        ) as recency,
        row_number() over (
            partition by events.user_id, windows.split, events.domain_code order by events.step desc
        ) as recency_in_domain,
        count(*) over (partition by events.user_id, windows.split) as n_events,
        count(*) over (
            partition by events.user_id, windows.split, events.domain_code
        ) as n_events_in_domain,
        max(events.time) over (partition by events.user_id, windows.split) as newest_time,
        events.domain_code,
        events.item_index,
        events.time,
        windows.start_time,
        windows.cut_time,
        windows.max_length
    from events
    inner join windows on events.time < windows.cut_time
),

final as (
    select
        user_id,
        split,
        recency,
        recency_in_domain,
        n_events,
        n_events_in_domain,
        domain_code,
        item_index,
        time,
        start_time,
        cut_time,
        max_length
    from placed
    where newest_time >= start_time
)

select * from final
