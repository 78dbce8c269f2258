-- How many recommendations each night wrote, and how many of them are only popularity.
-- Grain: one night and domain. The lists for users never seen ('__anyone__') are not counted.
-- Columns:
--   ds                the night
--   domain            the domain
--   users             users with a list
--   recommendations   rows
--   from_model        rows that the model chose
--   from_popularity   rows that popularity filled: short lists, cold users
--   fallback_share    from_popularity / recommendations
--   fallback_users    users whose whole list is popularity
with

known_users as (
    select * from recommendations
    where user_id <> '__anyone__'
),

lists as (
    select
        ds,
        domain,
        user_id,
        count(*) as recommendations,
        count(*) filter (where source = 'model') as from_model,
        count(*) filter (where source = 'popularity') as from_popularity
    from known_users
    group by ds, domain, user_id
),

final as (
    select
        ds,
        domain,
        count(*) as users,
        cast(sum(recommendations) as bigint) as recommendations,
        cast(sum(from_model) as bigint) as from_model,
        cast(sum(from_popularity) as bigint) as from_popularity,
        cast(sum(from_popularity) as double) / sum(recommendations) as fallback_share,
        count(*) filter (where from_model = 0) as fallback_users
    from lists
    group by ds, domain
)

select * from final
