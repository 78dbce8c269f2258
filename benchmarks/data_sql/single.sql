-- One row a user and domain: the last T events, newest first, by a bounded aggregate.
select
    user_id,
    code,
    max(moment, getvariable('length')) as newest
from events
group by user_id, code
