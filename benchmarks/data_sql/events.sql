-- Every event before the cutoff; moment orders a user's events in the total order (time, event_id).
create or replace temp view events as
select
    user_id,
    list_position(getvariable('domains'), domain)::integer as code,
    {
        'time': epoch_us(ts),
        'event_id': event_id,
        'code': list_position(getvariable('domains'), domain)::integer,
        'item': item_index
    } as moment
from read_parquet(getvariable('files'))
where ts < getvariable('cutoff')::timestamptz;
