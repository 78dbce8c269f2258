-- The cross-domain sequences of the newest night, padded as the model reads them.
-- Grain: one user and split (train, valid, test, serve).
-- Columns:
--   user_id         the user
--   split           train, valid, test or serve
--   item_indexes    T item indexes within their domains, oldest first, 0 = padding on the left
--   domain_codes    T domain codes, from 1 in the order of the configuration, 0 = padding
--   times           T event times, microseconds since 1970 UTC, 0 = padding
--   length          events before the cut, counted up to T + 1: T + 1 says that there are more
with

events as (
    select * from sequence_splits
),

steps as (
    select
        user_id,
        split,
        n_events,
        max_length,
        explode(sequence(1, max_length)) as recency
    from events
    where recency = 1
),

padded as (
    select
        steps.user_id,
        steps.split,
        steps.recency,
        least(steps.n_events, steps.max_length + 1) as length,
        coalesce(events.item_index, 0) as item_index,
        coalesce(events.domain_code, 0) as domain_code,
        coalesce(events.time, 0) as time
    from steps
    left join events
        on
            steps.user_id = events.user_id
            and steps.split = events.split
            and steps.recency = events.recency
),

folded as (
    select
        user_id,
        split,
        recency,
        length,
        array_agg(item_index) over whole as item_indexes,
        array_agg(domain_code) over whole as domain_codes,
        array_agg(time) over whole as times
    from padded
    window whole as (
        partition by user_id, split order by recency desc
        rows between unbounded preceding and unbounded following
    )
),

final as (
    select
        user_id,
        split,
        item_indexes,
        domain_codes,
        times,
        cast(length as int) as length
    from folded
    where recency = 1
)

select * from final
