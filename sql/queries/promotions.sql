-- Which version served each night, and why was the challenger promoted or refused?
-- How to read: one line a published night, newest first. no_challenger: training failed or was not
-- due; the row of train in the table steps says which, as does the page of the night.
with

published_nights as (
    select * from nights
),

final as (
    select
        ds,
        decision,
        served_version,
        champion_before,
        challenger,
        reason,
        code_version
    from published_nights
)

select * from final order by ds desc
