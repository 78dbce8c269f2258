-- Which data did each night read and write?
-- How to read: one line a published night, newest first, with the Iceberg snapshot of each table.
-- `make sql AS_OF=...` opens all tables as they were then, as long as maintenance keeps them.
with

published_nights as (
    select * from nights
),

final as (
    select
        ds,
        published_at,
        served_version,
        interactions_snapshot,
        items_snapshot,
        sequences_snapshot,
        recommendations_snapshot
    from published_nights
)

select * from final order by ds desc
