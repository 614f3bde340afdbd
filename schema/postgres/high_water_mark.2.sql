-- The highest position at or below which nothing can appear any more. Readers never read past it. Why: look.sql.
create or replace function {schema}.high_water_mark() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select look.high_water_mark from {schema}.look() as look
$$;
