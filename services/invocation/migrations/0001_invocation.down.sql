DROP TABLE invocation.requests;
DROP TABLE invocation.queues;
