-- The published nights that served both arms of an experiment; withdrawn ones apart.
-- Grain: one night.
-- Columns:
--   ds                  the night; its lists are shown the day after
--   experiment          name of the experiment
--   share               share of the users that the settings give to the candidate
--   champion_version    registry version of the champion's lists
--   candidate_version   registry version of the candidate's lists
--   champion_users      users with lists of the champion
--   candidate_users     users with lists of the candidate
with

arms as (
    select * from experiments
    where outcome = 'served'
),

published_nights as (
    select * from nights
    where decision <> 'rolled_back'
),

final as (
    select
        candidate.ds,
        candidate.experiment,
        candidate.share,
        champion.model_version as champion_version,
        candidate.model_version as candidate_version,
        champion.users as champion_users,
        candidate.users as candidate_users
    from arms as candidate
    inner join arms as champion
        on
            candidate.ds = champion.ds
            and candidate.arm = 'candidate'
            and champion.arm = 'champion'
    inner join published_nights
        on
            candidate.ds = published_nights.ds
            and candidate.run_id = published_nights.run_id
)

select * from final
