-- The latest row of every user in the files of the table sequences.
create or replace temp view kept as
with

all_rows as (
    select * from read_parquet(getvariable('files'))
),

newest as (
    select
        user_id,
        max(ds) as ds
    from all_rows
    group by user_id
),

final as (
    select
        all_rows.user_id,
        all_rows.items,
        all_rows.domains,
        all_rows.times
    from all_rows
    inner join newest on all_rows.user_id = newest.user_id and all_rows.ds = newest.ds
)

select * from final;
