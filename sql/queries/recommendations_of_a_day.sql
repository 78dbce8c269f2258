-- What did we recommend to one user on a past night?
-- How to read: the first five of each domain as written that night, and whether the item is still
-- on the user's list of the newest night. Edit `choice`; empty takes the first user and the night
-- before the newest.
with

choice as (
    select
        '' as user_id,
        '' as ds
),

all_recommendations as (
    select * from recommendations
),

shown_now as (
    select * from latest_recommendations
),

published_nights as (
    select * from nights
),

newest as (
    select * from latest_night
),

first_user as (
    select min(user_id) as user_id from shown_now
    where user_id <> '__anyone__'
),

night_before as (
    select max(published_nights.ds) as ds
    from published_nights
    inner join newest on published_nights.ds < newest.ds
),

chosen as (
    select
        coalesce(nullif(choice.user_id, ''), first_user.user_id) as user_id,
        coalesce(cast(nullif(choice.ds, '') as date), night_before.ds) as ds
    from choice
    cross join first_user
    cross join night_before
),

final as (
    select
        all_recommendations.ds,
        all_recommendations.user_id,
        all_recommendations.domain,
        all_recommendations.arm,
        all_recommendations.rank,
        all_recommendations.item_id,
        all_recommendations.source,
        all_recommendations.model_version,
        shown_now.rank as rank_now
    from all_recommendations
    inner join chosen
        on
            all_recommendations.user_id = chosen.user_id
            and all_recommendations.ds = chosen.ds
    left join shown_now
        on
            all_recommendations.user_id = shown_now.user_id
            and all_recommendations.domain = shown_now.domain
            and all_recommendations.arm = shown_now.arm
            and all_recommendations.item_id = shown_now.item_id
    where all_recommendations.rank <= 5
)

select * from final order by domain, arm, rank
