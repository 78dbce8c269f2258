-- The rows to write: oldest first, one list a field.
select
    user_id,
    list_transform(list_reverse(newest), lambda x: x.item) as items,
    list_transform(list_reverse(newest), lambda x: x.code) as domains,
    list_transform(list_reverse(newest), lambda x: x.time) as times
from newest_cross
