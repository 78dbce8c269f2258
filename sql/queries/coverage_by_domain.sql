-- How much of each catalogue do we recommend, and is it always the same few items?
-- How to read: coverage is the share of known items on at least one list. top_10_share is what the
-- ten most recommended items take of all rows; gini near 1 means that few items take nearly
-- everything.
with

coverage as (
    select * from coverage_by_night
),

newest as (
    select * from latest_night
),

final as (
    select
        coverage.ds,
        coverage.domain,
        coverage.catalogue_items,
        coverage.recommended_items,
        round(coverage.coverage, 4) as coverage,
        round(coverage.top_10_share, 4) as top_10_share,
        round(coverage.gini, 4) as gini
    from coverage
    inner join newest on coverage.ds = newest.ds
)

select * from final order by domain
