-- How much of each catalogue the night recommends, and how evenly.
-- Grain: one night and domain. The lists for users never seen ('__anyone__') are not counted.
-- Columns:
--   ds                  the night
--   domain              the domain
--   catalogue_items     items known by that night
--   recommended_items   of these, items on at least one list
--   coverage            recommended_items / catalogue_items
--   top_10_share        share of all rows that the ten most recommended items take
--   gini                concentration over the catalogue: 0 all items alike, 1 one item takes all
with

known_users as (
    select * from recommendations
    where user_id <> '__anyone__'
),

catalogue as (
    select * from items
),

recommended as (
    select
        ds,
        domain,
        item_id,
        count(*) as times
    from known_users
    group by ds, domain, item_id
),

ranked as (
    select
        ds,
        domain,
        times,
        row_number() over (partition by ds, domain order by times desc, item_id asc) as place
    from recommended
),

lists as (
    select
        ds,
        domain,
        count(*) as recommended_items,
        cast(sum(times) as double) as total,
        cast(sum(case when place <= 10 then times else 0 end) as double) as top_10,
        -- with the k items in falling order, the n - k that nobody gets add nothing to this sum
        cast(sum(times * place) as double) as weighted
    from ranked
    group by ds, domain
),

known_items as (
    select
        lists.ds,
        lists.domain,
        count(*) as catalogue_items
    from lists
    inner join catalogue
        on
            lists.domain = catalogue.domain
            and lists.ds >= catalogue.arrival_ds
    group by lists.ds, lists.domain
),

final as (
    select
        lists.ds,
        lists.domain,
        known_items.catalogue_items,
        lists.recommended_items,
        cast(lists.recommended_items as double) / known_items.catalogue_items as coverage,
        lists.top_10 / lists.total as top_10_share,
        (known_items.catalogue_items + 1 - 2 * lists.weighted / lists.total)
        / known_items.catalogue_items as gini
    from lists
    inner join known_items
        on
            lists.ds = known_items.ds
            and lists.domain = known_items.domain
)

select * from final
