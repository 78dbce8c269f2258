-- What was shown to the users of an experiment, from the lists of its nights.
-- Grain: one item shown to one user at one moment. Users without lists of their own are left out:
-- both arms show them the same.
-- Columns:
--   experiment   name of the experiment
--   share        the candidate's share of the users that night
--   night_ds     the night whose lists were shown
--   user_id      the user
--   domain       domain of the item
--   item_id      the item that was shown
--   ts           when it was shown, UTC
--   clicked      whether it was clicked
--   arm          the arm that was shown
--   listed_arm   the arm that the user is in: another one than arm is a fault of serving
with

shown as (
    select * from impression_outcomes
    where listed_arm is not null
),

test_nights as (
    select * from experiment_nights
),

final as (
    select
        test_nights.experiment,
        test_nights.share,
        shown.night_ds,
        shown.user_id,
        shown.domain,
        shown.item_id,
        shown.ts,
        shown.clicked,
        shown.arm,
        shown.listed_arm
    from shown
    inner join test_nights on shown.night_ds = test_nights.ds
)

select * from final
