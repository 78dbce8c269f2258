-- One row a user: the last T events of all domains, newest first, by a bounded aggregate.
select
    user_id,
    max(moment, getvariable('length')) as newest
from events
group by user_id
