-- keep: one more
select atoll.keep_example(%(route)s, %(path)s, %(asked)s, %(first)s, %(first_said)s, %(then)s, %(then_said)s, %(measure)s, %(confidence)s, %(scope)s);

-- tidy: forget what is old, or too much
select atoll.tidy_examples(%s, %s);
