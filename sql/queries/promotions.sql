-- Which version served each night, and why was the challenger promoted or refused?
-- How to read: one line a published night, newest first. no_challenger: no model was trained; the
-- reason says whether training was not due, failed (and of what), or did not run.
with

published_nights as (
    select * from nights
),

final as (
    select
        ds,
        decision,
        served_version,
        reason,
        champion_before,
        challenger,
        code_version
    from published_nights
)

select * from final order by ds desc
