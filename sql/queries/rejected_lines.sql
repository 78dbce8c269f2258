-- Which input lines did we refuse, and why?
-- How to read: newest landing day first, the commonest reason first. share_of_lines is the part of
-- all lines of that source and day. The lines themselves: select * from rejected_interactions where
-- arrival_ds = ...
with

refused as (
    select * from rejects_by_reason
),

final as (
    select
        arrival_ds,
        source,
        reason,
        lines,
        round(share_of_lines, 4) as share_of_lines,
        files,
        first_file
    from refused
)

select * from final order by arrival_ds desc, lines desc, source asc, reason asc
