-- ask: leaves an errand for the node process
insert into atoll.errand (kind, details) values (%s, %s) returning id;

-- wake: tells the node process that there is one
notify atoll_errand;

-- open: errands that nobody has done yet
select id, kind, details from atoll.errand where answered_at is null and asked_at > now() - interval '10 minutes' order by asked_at limit 10;

-- answer: the result of an errand
update atoll.errand set answer = %s, answered_at = now() where id = %s;

-- answered: the answer, if there is one yet
select answer from atoll.errand where id = %s and answered_at is not null;
