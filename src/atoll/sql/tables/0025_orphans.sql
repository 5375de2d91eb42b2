-- Rows whose parent is gone, and what is to become of them.
--
-- atoll.orphan_rule is a shared table: what it says of a table holds on every node. atoll.orphan is local.

create table atoll.orphan_rule (
    tbl    text primary key,
    policy text not null check (policy in ('report', 'follow', 'remove', 'restore'))
);

-- A child that points to a parent which is not in its table here. One that was dealt with stays listed for a while.
create table atoll.orphan (
    id         bigint      generated always as identity primary key,
    tbl        text        not null,
    key        text        not null,
    reference  text        not null,        -- the foreign key's name
    parent     text        not null,
    parent_key text        not null,
    why        text        not null,
    since      bigint      not null,        -- stamp
    problem    text,                        -- why what its rule says could not be done
    tries      integer     not null default 0,
    retry_at   timestamptz not null default '-infinity',
    done       text,
    done_at    timestamptz
);
create unique index orphan_once on atoll.orphan (tbl, md5(key), reference) where done is null;
create index orphan_done on atoll.orphan (done_at) where done is not null;

alter table atoll.conflict drop constraint conflict_kind_check;
alter table atoll.conflict add constraint conflict_kind_check check (kind in ('update', 'insert', 'delete', 'unique', 'fact', 'schema', 'orphan'));
