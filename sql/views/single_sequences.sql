-- The single-domain sequences of the newest night, padded as the model reads them.
-- Grain: one user, domain and split with events.
-- Columns:
--   user_id         the user
--   domain          the domain
--   split           train, valid, test or serve
--   item_indexes    T item indexes of this domain, oldest first, 0 = padding on the left
--   places          step of each event in the user's cross sequence, from 0; -1 = older, or padding
--   times           T event times, microseconds since 1970 UTC, 0 = padding
--   length          events of the domain before the cut, counted up to T + 1
with

night as (
    select * from sequences_night
),

events as (
    select * from sequence_splits
),

steps as (
    select
        user_id,
        split,
        domain_code,
        n_events_in_domain,
        max_length,
        explode(sequence(1, max_length)) as recency
    from events
    where recency_in_domain = 1
),

padded as (
    select
        steps.user_id,
        steps.split,
        steps.domain_code,
        steps.recency,
        least(steps.n_events_in_domain, steps.max_length + 1) as length,
        coalesce(events.item_index, 0) as item_index,
        coalesce(greatest(steps.max_length - events.recency, -1), -1) as place,
        coalesce(events.time, 0) as time
    from steps
    left join events
        on
            steps.user_id = events.user_id
            and steps.split = events.split
            and steps.domain_code = events.domain_code
            and steps.recency = events.recency_in_domain
),

folded as (
    select
        user_id,
        domain_code,
        split,
        recency,
        length,
        array_agg(item_index) over whole as item_indexes,
        array_agg(cast(place as int)) over whole as places,
        array_agg(time) over whole as times
    from padded
    window whole as (
        partition by user_id, split, domain_code order by recency desc
        rows between unbounded preceding and unbounded following
    )
),

final as (
    select
        folded.user_id,
        try_element_at(night.domains, folded.domain_code) as domain,
        folded.split,
        folded.item_indexes,
        folded.places,
        folded.times,
        cast(folded.length as int) as length
    from folded
    cross join night
    where folded.recency = 1
)

select * from final
