create table t(a integer primary key, b text, c real);
with recursive n(x) as (select 1 union all select x+1 from n where x < 60000) insert into t select x, printf('name %d of %s', x, hex(x*7919)), x*0.5 from n;
create index tb on t(b);
select count(*), max(length(b)) from t where b like '%7%';
select substr(b,1,8), count(*) from t group by 1 order by 2 desc limit 5;
select a.a, b.a from t a join t b on a.a = b.a + 100 where a.c > 3500 order by a.b limit 10;
update t set b = b || ' changed' where a % 3 = 0;
delete from t where a % 5 = 0;
vacuum;
