-- What did last Tuesday's night recommend to one user?
-- How to read: the first five of each domain that the newest published night of that weekday wrote.
-- The lists of a night are shown on the day after it. Edit `choice`: a weekday is its first three
-- letters; an empty user takes the first one of that night. Nothing is found where no night of that
-- weekday is published: select distinct ds from nights.
with

choice as (
    select
        '' as user_id,
        'Tue' as weekday
),

all_recommendations as (
    select * from recommendations
    where user_id <> '__anyone__'
),

published_nights as (
    select * from nights
),

that_night as (
    select max(published_nights.ds) as ds
    from published_nights
    inner join choice on substr(dayname(published_nights.ds), 1, 3) = choice.weekday
),

that_lists as (
    select all_recommendations.*
    from all_recommendations
    inner join that_night on all_recommendations.ds = that_night.ds
),

first_user as (
    select min(user_id) as user_id from that_lists
),

chosen as (
    select coalesce(nullif(choice.user_id, ''), first_user.user_id) as user_id
    from choice
    cross join first_user
),

final as (
    select
        that_lists.ds,
        that_lists.user_id,
        that_lists.domain,
        that_lists.arm,
        that_lists.rank,
        that_lists.item_id,
        that_lists.source,
        that_lists.model_version
    from that_lists
    inner join chosen on that_lists.user_id = chosen.user_id
    where that_lists.rank <= 5
)

select * from final order by domain, arm, rank
