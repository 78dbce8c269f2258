-- The same from the table single, as the last T of a union is the last T of the last Ts.
select
    user_id,
    list_sort(flatten(list(newest)), 'desc')[:getvariable('length')] as newest
from single
group by user_id
