"""How the web process runs, where its command line says nothing else: several people at once, since
Salesforce may take its time to answer one of them."""

worker_class = "gthread"
threads = 16
timeout = 60
