-- How much did the recommendations change since the night before?
-- How to read: of the newest night's rows, kept were on the same user's list the night before and
-- appeared are new there; users_new had no list at all. A kept_share near 0 is a new model or a
-- fault; near 1, a stale one; null: there is no night before.
with

all_recommendations as (
    select * from recommendations
    where user_id <> '__anyone__'
),

published_nights as (
    select * from nights
),

newest as (
    select * from latest_night
),

night_before as (
    select max(published_nights.ds) as ds
    from published_nights
    inner join newest on published_nights.ds < newest.ds
),

current_rows as (
    select all_recommendations.*
    from all_recommendations
    inner join newest on all_recommendations.ds = newest.ds
),

earlier_rows as (
    select all_recommendations.*
    from all_recommendations
    inner join night_before on all_recommendations.ds = night_before.ds
),

earlier_users as (
    select distinct
        user_id,
        domain
    from earlier_rows
),

compared as (
    select
        current_rows.ds,
        current_rows.domain,
        current_rows.user_id,
        earlier_rows.item_id is not null as is_kept,
        earlier_users.user_id is null as is_new_user
    from current_rows
    left join earlier_rows
        on
            current_rows.user_id = earlier_rows.user_id
            and current_rows.domain = earlier_rows.domain
            and current_rows.arm = earlier_rows.arm
            and current_rows.item_id = earlier_rows.item_id
    left join earlier_users
        on
            current_rows.user_id = earlier_users.user_id
            and current_rows.domain = earlier_users.domain
),

final as (
    select
        compared.ds,
        compared.domain,
        count(*) as recommendations,
        count(*) filter (where compared.is_kept) as kept,
        count(*) filter (where not compared.is_kept) as appeared,
        case
            when max(night_before.ds) is not null
                then round(cast(count(*) filter (where compared.is_kept) as double) / count(*), 4)
        end as kept_share,
        count(distinct case when compared.is_new_user then compared.user_id end) as users_new
    from compared
    cross join night_before
    group by compared.ds, compared.domain
)

select * from final order by domain
