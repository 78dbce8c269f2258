-- Did each arm of the experiment get the share of the users that the settings gave it?
-- How to read: 'with lists' counts the users of the newest night, 'shown' those of the click log
-- who have lists. p_value is the chance of a split this far from the share if all is well; below
-- 0.001 it is a mismatch: find the fault in serving or logging, the uplift means nothing until
-- then. crossed_users were shown another arm than theirs and should be 0. Write a name into
-- `choice`; empty takes the newest experiment, with its newest share.
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

exposed as (
    select
        experiment,
        share,
        count(distinct case when arm = 'champion' then user_id end) as champion_users,
        count(distinct case when arm = 'candidate' then user_id end) as candidate_users,
        count(distinct case when arm <> listed_arm then user_id end) as crossed_users
    from all_shown
    group by experiment, share
),

kinds as (
    select 'with lists' as counted
    union all
    select 'shown' as counted
),

counted as (
    select
        test_nights.experiment,
        test_nights.share,
        kinds.counted,
        case
            when kinds.counted = 'shown' then coalesce(exposed.champion_users, 0)
            else test_nights.champion_users
        end as champion_users,
        case
            when kinds.counted = 'shown' then coalesce(exposed.candidate_users, 0)
            else test_nights.candidate_users
        end as candidate_users,
        case when kinds.counted = 'shown' then coalesce(exposed.crossed_users, 0) else 0
        end as crossed_users
    from test_nights
    inner join newest on test_nights.ds = newest.ds
    cross join kinds
    left join exposed
        on
            test_nights.experiment = exposed.experiment
            and test_nights.share = exposed.share
),

tested as (
    select
        *,
        cast(champion_users + candidate_users as double) as users,
        power(candidate_users - (champion_users + candidate_users) * share, 2)
        / nullif((champion_users + candidate_users) * share * (1 - share), 0) as chi_square
    from counted
),

-- erfc(sqrt(chi_square / 2)), the tail of chi-square with one degree of freedom, as in Abramowitz
-- and Stegun 7.1.26; off by 2e-7 at most
tail as (
    select
        *,
        1 / (1 + 0.3275911 * sqrt(chi_square / 2)) as t
    from tested
),

final as (
    select
        experiment,
        counted,
        share,
        champion_users,
        candidate_users,
        round(candidate_users / nullif(users, 0), 4) as candidate_share,
        round(chi_square, 3) as chi_square,
        round(
            t * (
                0.254829592 + t * (
                    -0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))
                )
            ) * exp(-chi_square / 2),
            5
        ) as p_value,
        crossed_users,
        case
            when users = 0 then 'no users'
            when chi_square is null then 'one arm has all'
            when chi_square > 10.828 then 'mismatch'
            else 'as it should be'
        end as verdict
    from tail
)

select * from final order by counted desc
