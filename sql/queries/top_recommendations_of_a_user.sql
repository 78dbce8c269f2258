-- What do we recommend to one user now?
-- How to read: the first five of each domain, best first. Source 'popularity' means that the model
-- had too little to say. Write a user id between the quotes of `choice`; empty takes the first
-- user.
with

choice as (
    select '' as user_id
),

shown_now as (
    select * from latest_recommendations
),

first_user as (
    select min(user_id) as user_id from shown_now
    where user_id <> '__anyone__'
),

chosen as (
    select coalesce(nullif(choice.user_id, ''), first_user.user_id) as user_id
    from choice
    cross join first_user
),

final as (
    select
        shown_now.user_id,
        shown_now.domain,
        shown_now.rank,
        shown_now.item_id,
        round(shown_now.score, 3) as score,
        shown_now.source,
        shown_now.arm
    from shown_now
    inner join chosen on shown_now.user_id = chosen.user_id
    where shown_now.rank <= 5
)

select * from final order by domain, arm, rank
