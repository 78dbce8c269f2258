-- The last T events of all domains, from the kept ones.
select
    user_id,
    items[-getvariable('length'):] as items,
    domains[-getvariable('length'):] as domains,
    times[-getvariable('length'):] as times
from kept
