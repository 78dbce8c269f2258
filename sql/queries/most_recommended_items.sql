-- Which items do we recommend most, and does anybody ask for them?
-- How to read: the first five of each domain by the number of users that get them, beside the
-- number of events that the item ever had. Many users and few events: look at it.
with

shown_now as (
    select * from latest_recommendations
    where user_id <> '__anyone__'
),

events as (
    select * from interactions
),

recommended as (
    select
        domain,
        item_id,
        count(distinct user_id) as users,
        avg(rank) as mean_rank
    from shown_now
    group by domain, item_id
),

places as (
    select
        domain,
        item_id,
        users,
        mean_rank,
        row_number() over (partition by domain order by users desc, item_id asc) as place
    from recommended
),

asked_for as (
    select
        domain,
        item_id,
        count(*) as events
    from events
    group by domain, item_id
),

final as (
    select
        places.domain,
        places.place,
        places.item_id,
        places.users,
        round(places.mean_rank, 2) as mean_rank,
        coalesce(asked_for.events, 0) as events
    from places
    left join asked_for
        on
            places.domain = asked_for.domain
            and places.item_id = asked_for.item_id
    where places.place <= 5
)

select * from final order by domain, place
