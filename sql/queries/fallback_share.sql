-- How often do we fall back to popularity?
-- How to read: fallback_share is the share of rows that popularity filled because the model had too
-- little; fallback_users got nothing else. A jump from one night to the next means lost histories
-- or a cold domain.
with

written as (
    select * from recommendations_by_domain
),

final as (
    select
        ds,
        domain,
        users,
        recommendations,
        from_popularity,
        round(fallback_share, 4) as fallback_share,
        fallback_users
    from written
)

select * from final order by ds desc, domain asc
