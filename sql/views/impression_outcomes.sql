-- What was shown to users by the click log, and whether they clicked it.
-- Grain: one item shown to one user at one moment, however many landing days tell of it.
-- Columns:
--   user_id       the user
--   domain        domain of the item
--   item_id       the item that was shown
--   ts            when it was shown, UTC
--   clicked       whether any line about it says so
--   arm           A/B arm that was shown: as the log says, else listed_arm
--   listed_arm    arm of the user's lists of night_ds; null: a user without lists
--   night_ds      the night whose lists were shown that day
--   event_day     day of ts, UTC
with

told as (
    select * from impressions
),

final as (
    select
        user_id,
        domain,
        item_id,
        ts,
        bool_or(clicked) as clicked,
        max(arm) as arm,
        max(listed_arm) as listed_arm,
        max(night_ds) as night_ds,
        max(event_day) as event_day
    from told
    group by user_id, domain, item_id, ts
)

select * from final
