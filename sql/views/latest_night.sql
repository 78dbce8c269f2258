-- The newest published night: which version served it, what the gate decided and why.
-- Grain: one row, none before the first night is published.
-- Columns:
--   ds                the logical day
--   run_id            the run that published it
--   served_version    registry version of the model that scored
--   champion_before   version that was champion when the night began; null on the first night
--   challenger        version that the night trained; null where it did not train
--   decision          promoted, refused, no_challenger; rolled_back: its lists are shown no more
--   reason            why, in words
--   code_version      git commit of the jobs
--   published_at      when, UTC
with

published_nights as (
    select * from nights
),

newest as (
    select max(ds) as ds from published_nights
),

final as (
    select
        published_nights.ds,
        published_nights.run_id,
        published_nights.served_version,
        published_nights.champion_before,
        published_nights.challenger,
        published_nights.decision,
        published_nights.reason,
        published_nights.code_version,
        published_nights.published_at
    from published_nights
    inner join newest on published_nights.ds = newest.ds
)

select * from final
