-- Do users click more on the candidate's lists than on the champion's?
-- How to read: uplift is the candidate's click-through less the champion's; with chance 95 in 100
-- the true one lies between low and high. 'better' or 'worse' only where the interval leaves out 0.
-- It is clustered by user: a user's clicks count as one draw. First ask experiment_sample_ratio:
-- after a mismatch these numbers mean nothing. Write a name into `choice`; empty takes the newest
-- experiment, with its newest share.
with

choice as (
    select '' as experiment
),

test_nights as (
    select * from experiment_nights
),

all_shown as (
    select * from experiment_impressions
),

newest as (
    select max(test_nights.ds) as ds
    from test_nights
    inner join choice on choice.experiment in ('', test_nights.experiment)
),

chosen as (
    select
        test_nights.experiment,
        test_nights.share
    from test_nights
    inner join newest on test_nights.ds = newest.ds
),

shown as (
    select
        all_shown.*,
        cast(case when all_shown.clicked then 1 else 0 end as double) as click
    from all_shown
    inner join chosen
        on
            all_shown.experiment = chosen.experiment
            and all_shown.share = chosen.share
),

by_user as (
    select
        experiment,
        share,
        domain,
        arm,
        user_id,
        cast(count(*) as double) as impressions,
        sum(click) as clicks
    from shown
    group by experiment, share, domain, arm, user_id
    union all
    select
        experiment,
        share,
        '(all)' as domain,
        arm,
        user_id,
        cast(count(*) as double) as impressions,
        sum(click) as clicks
    from shown
    group by experiment, share, arm, user_id
),

by_arm as (
    select
        experiment,
        share,
        domain,
        arm,
        count(*) as users,
        sum(impressions) as impressions,
        sum(clicks) / sum(impressions) as click_through
    from by_user
    group by experiment, share, domain, arm
),

-- the delta method: a ratio of sums over users varies as the mean of clicks - ratio * impressions
spread as (
    select
        by_arm.domain,
        by_arm.arm,
        sum(power(by_user.clicks - by_arm.click_through * by_user.impressions, 2)) as squares
    from by_user
    inner join by_arm
        on
            by_user.domain = by_arm.domain
            and by_user.arm = by_arm.arm
    group by by_arm.domain, by_arm.arm
),

measured as (
    select
        by_arm.experiment,
        by_arm.share,
        by_arm.domain,
        by_arm.arm,
        by_arm.users,
        by_arm.impressions,
        by_arm.click_through,
        by_arm.users / nullif(cast(by_arm.users - 1 as double), 0)
        * spread.squares / power(by_arm.impressions, 2) as variance
    from by_arm
    inner join spread
        on
            by_arm.domain = spread.domain
            and by_arm.arm = spread.arm
),

compared as (
    select
        champion.experiment,
        champion.share,
        champion.domain,
        champion.users as champion_users,
        candidate.users as candidate_users,
        champion.impressions as champion_impressions,
        candidate.impressions as candidate_impressions,
        champion.click_through as champion_ctr,
        candidate.click_through as candidate_ctr,
        candidate.click_through - champion.click_through as uplift,
        1.959964 * sqrt(champion.variance + candidate.variance) as margin
    from measured as champion
    inner join measured as candidate
        on
            champion.domain = candidate.domain
            and champion.arm = 'champion'
            and candidate.arm = 'candidate'
),

final as (
    select
        experiment,
        share,
        domain,
        champion_users,
        candidate_users,
        cast(champion_impressions as bigint) as champion_impressions,
        cast(candidate_impressions as bigint) as candidate_impressions,
        round(champion_ctr, 5) as champion_ctr,
        round(candidate_ctr, 5) as candidate_ctr,
        round(uplift, 5) as uplift,
        round(uplift - margin, 5) as low,
        round(uplift + margin, 5) as high,
        round(uplift / nullif(champion_ctr, 0), 4) as relative_uplift,
        case
            when margin is null then 'too few users'
            when uplift - margin > 0 then 'better'
            when uplift + margin < 0 then 'worse'
            else 'not clear'
        end as candidate
    from compared
)

select * from final order by domain
