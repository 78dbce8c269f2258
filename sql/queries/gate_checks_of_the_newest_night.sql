-- Which rules of the gate spoke for or against the newest challenger, domain by domain?
-- How to read: objections first; one is enough to refuse. value is the challenger's served view,
-- rival_value whoever it is held against, low and high the 95 % interval of their difference on the
-- same cases. An objection is a drop beyond tolerance whose interval lies below 0. place sorts the
-- rows: 1 objection, 2 warning, 3 not judged, 4 passed, and the decision.
with

all_checks as (
    select * from gate_checks
),

newest as (
    select max(ds) as ds from all_checks
),

final as (
    select
        case all_checks.outcome
            when 'objection' then 1
            when 'warning' then 2
            when 'not judged' then 3
            else 4
        end as place,
        all_checks.outcome,
        all_checks.rule,
        all_checks.domain,
        all_checks.words,
        round(all_checks.value, 4) as value,
        round(all_checks.rival_value, 4) as rival_value,
        round(all_checks.low, 4) as low,
        round(all_checks.high, 4) as high,
        all_checks.cases,
        all_checks.ds
    from all_checks
    inner join newest on all_checks.ds = newest.ds
)

select * from final order by place asc, rule asc, domain asc
