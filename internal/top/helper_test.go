package top_test

func helper() bool { return false }
