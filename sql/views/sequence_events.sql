-- Every user's kept events as the newest night knows them: what sequences are cut from.
-- Grain: one kept event: of every user the last ones in each domain, more of the newest days.
-- Columns:
--   user_id       the user
--   step          1 is the user's oldest kept event
--   domain_code   domain of the event, from 1 in the order of the configuration
--   item_index    item within its domain, as in items
--   time          microseconds since 1970 UTC
--   ds            the night that wrote the user's row
with

night as (
    select * from sequences_night
),

written as (
    select
        sequences.user_id,
        sequences.items,
        sequences.domains,
        sequences.times,
        sequences.ds,
        max(sequences.ds) over (partition by sequences.user_id) as newest_ds
    from sequences
    inner join night on sequences.ds between night.base_ds and night.ds
),

steps as (
    select
        user_id,
        items,
        domains,
        times,
        ds,
        explode(sequence(1, size(items))) as step
    from written
    where ds = newest_ds
),

final as (
    select
        user_id,
        step,
        try_element_at(domains, cast(step as int)) as domain_code,
        try_element_at(items, cast(step as int)) as item_index,
        try_element_at(times, cast(step as int)) as time,
        ds
    from steps
)

select * from final
