-- Which users does the nightly report show? The longest, the middle and the shortest history among
-- the users that the model served on $ds (DuckDB only; jobs/report.py gives the day). Grain: one
-- user. Columns: user_id, events (arrived up to that day), domains.
with

served as (
    select distinct user_id from recommendations
    where ds = $ds and user_id <> '__anyone__'
),

events as (
    select * from interactions
    where arrival_ds <= $ds
),

histories as (
    select
        served.user_id,
        count(events.event_id) as events,
        count(distinct events.domain) as domains
    from served
    left join events on served.user_id = events.user_id
    group by served.user_id
),

placed as (
    select
        user_id,
        events,
        domains,
        row_number() over (order by events desc, domains desc, user_id asc) as place,
        count(*) over () as users
    from histories
),

final as (
    select
        user_id,
        events,
        domains
    from placed
    where place in (1, cast(ceil(users / 2.0) as bigint), users)
)

select * from final order by events desc, user_id asc
