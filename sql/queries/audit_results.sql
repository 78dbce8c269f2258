-- Which rules did the newest audited day keep or break?
-- How to read: broken rules first. A broken rule stops the night before it publishes; published
-- tables stay as they were. failed counts the rows that broke it, of the checked ones.
with

all_audits as (
    select * from audits
),

newest as (
    select max(ds) as ds from all_audits
),

final as (
    select
        all_audits.ds,
        all_audits.table_name,
        case when all_audits.success then 'held' else 'BROKEN' end as result,
        all_audits.rule,
        all_audits.checked,
        all_audits.failed,
        all_audits.observed,
        all_audits.run_id
    from all_audits
    inner join newest on all_audits.ds = newest.ds
)

select * from final order by result asc, table_name asc, rule asc, run_id asc
