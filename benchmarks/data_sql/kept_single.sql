-- The last T events of each domain of a user, from the kept ones.
with

placed as (
    select
        user_id,
        code,
        items,
        times,
        list_filter(range(1, len(items) + 1), lambda place: domains[place] = code) as places
    from kept, unnest(range(1, len(getvariable('domains')) + 1)) as codes(code)
),

final as (
    select
        user_id,
        code,
        list_transform(places[-getvariable('length'):], lambda place: items[place]) as items,
        list_transform(places[-getvariable('length'):], lambda place: times[place]) as times
    from placed
    where len(places) > 0
)

select * from final
